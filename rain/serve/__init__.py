"""``rain serve``: aligned text behind OpenAI's protocol."""
