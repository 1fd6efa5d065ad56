"""What differs between the versions; the tests write it anew for each."""

VERSION = "one"
