"""fctl in QGIS: the plugin, and what tests it with a real QGIS."""
