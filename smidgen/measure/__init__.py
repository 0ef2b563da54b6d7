"""Numbers with their unit, n, interval and conditions: quality, speed, memory and size."""
