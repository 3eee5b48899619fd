"""Pages for people: ``dsv report`` of a run, ``dsv gallery`` of a folder. Each is one file that asks for no other."""
