"""Studies that come with sweep: one file each, its docstring the exact command."""
