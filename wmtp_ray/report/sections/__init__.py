"""The parts of the page, each a function from arms to a `Section`. They choose and word; they measure nothing."""
