// A browser refuses workers to a page that was opened from the disk, and the search of the site is one. There its script
// runs in a hidden frame, which has the two things that it uses: messages in, and messages out.
// (The theme's offline plugin would load a script of this name from a CDN.)
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    #frame = document.createElement("iframe");
    #waiting = [];

    constructor(url) {
      super();
      this.#frame.hidden = true;
      document.body.append(this.#frame);
      const inside = this.#frame.contentWindow;
      inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", {data}));
      const script = inside.document.createElement("script");
      script.src = url;
      script.onload = () => {
        const waiting = this.#waiting;
        this.#waiting = null;
        waiting.forEach(data => this.postMessage(data));
      };
      script.onerror = () => this.dispatchEvent(new ErrorEvent("error", {message: `cannot load ${url}`}));
      inside.document.head.append(script);
    }

    postMessage(data) {
      if (this.#waiting) this.#waiting.push(data);
      else setTimeout(() => this.#frame.contentWindow.dispatchEvent(new MessageEvent("message", {data})));
    }

    terminate() {
      this.#frame.remove();
    }
  };
}
