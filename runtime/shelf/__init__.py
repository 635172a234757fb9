"""What can be served: models by name, bundles opened, plans proposed."""
