"""Blind annotation: pages for raters, and what their ratings say."""
