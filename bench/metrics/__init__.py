"""From chain results and videos to numbers with intervals."""
