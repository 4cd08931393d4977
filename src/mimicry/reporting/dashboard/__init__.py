"""One page of HTML with everything the run records tell: no server, no network, no file beside it."""
