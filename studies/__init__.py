"""Studies that come with sweep. Each file is one study, and its docstring has the command that runs it."""
