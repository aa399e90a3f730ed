"""Make one HTML file about runs from what their folders hold. Nothing here loads a model or knows Ray."""
