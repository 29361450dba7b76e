"""What every wing needs from the machine: devices, memory, files, random seeds, precision."""
