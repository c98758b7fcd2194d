"""What a network relies on: the explanations of a class in groups, groups that look like shortcuts, and tests of them."""
