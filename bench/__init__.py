"""The harness: data in, arms compared, gap closure out.  Knows everything; nothing imports it."""
