"""The models that are merged: opened, checked against each other, aligned."""
