"""The models that are merged: opened, checked against each other, aligned, and what was measured of them."""
