"""One HTML file about runs, from what their folders hold; nothing here loads a model or knows Ray."""
