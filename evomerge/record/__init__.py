"""All that lies on disk about a run: its journal, its responses, what is read off them."""
