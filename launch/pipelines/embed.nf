// Embeds image banks as a process of Nextflow (24.04 or later), and makes one map of them:
//
//   nextflow run launch/pipelines/embed.nf --checkpoint runs/l8 --banks 'banks/*.zarr' --out embeddings
//
// Each bank becomes OUT/NAME.zarr, a task of its own; OUT/wells.parquet holds all of them, aligned. In a workflow of your own:
// `include { EMBED; ALIGN } from './embed.nf'`. Where tasks run, and in which image of launch/Dockerfile, is said by Nextflow's configuration:
//
//   process { executor = 'slurm'; withName: EMBED { clusterOptions = '--gpus=1' } }
//   apptainer.enabled = true; process.container = 'phenomjax.sif'

params.checkpoint = null      // a run, one of its checkpoints/STEP, or a release folder
params.banks = 'banks/*.zarr'
params.out = 'embeddings'
params.embed = ''             // more options of `python -m phenomjax.embed images`, such as '--level site'

process EMBED {
    tag "${name}"
    label 'gpu'
    cpus 8
    memory '16 GB'
    time '4h'
    publishDir params.out, mode: 'copy'
    // 75 and 76: stopped by a signal, or by the watchdog; worth another try. 1: images could not be read, and 2: a mistake in the
    // arguments or the input; trying again would change nothing, and the log says what to do.
    errorStrategy { task.exitStatus in [75, 76, 137, 143] ? 'retry' : 'finish' }
    maxRetries 2

    input:
    tuple val(name), path(bank, stageAs: 'banks/*')
    path checkpoint

    output:
    path "${name}"

    script:
    """
    python -m phenomjax.embed images --checkpoint ${checkpoint} --bank ${bank} --out ${name} --threads ${task.cpus} ${params.embed}
    """
}

process ALIGN {
    cpus 2
    memory '16 GB'
    publishDir params.out, mode: 'copy'

    input:
    path embeddings

    output:
    path 'wells.parquet'

    script:
    """
    python -m phenomjax.maps align --profiles ${embeddings} --out wells.parquet
    """
}

workflow {
    if (!params.checkpoint) {
        error 'Name the trained model: --checkpoint runs/l8'
    }
    banks = Channel.fromPath(params.banks, type: 'dir', checkIfExists: true)
    EMBED(banks.map { bank -> tuple(bank.name, bank) }, file(params.checkpoint, checkIfExists: true))
    ALIGN(EMBED.out.collect())
}
