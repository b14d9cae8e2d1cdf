"""Tables, figures and pages made from a finished run."""
