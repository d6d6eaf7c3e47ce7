"""Robot camera relocalisation."""
