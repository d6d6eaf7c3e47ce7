"""What a recording is worth before hours of training are spent: measurements, warnings and one page."""
