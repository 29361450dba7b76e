"""What stands on this machine: devices, memory, files, seeds, arithmetic."""
