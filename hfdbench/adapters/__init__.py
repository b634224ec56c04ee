"""One module per codec family; a card names a class here as "module:Class". Import only the one you use."""
