"""Tables of an experiment, understood: columns, roles of wells, units, plate maps, grids."""
