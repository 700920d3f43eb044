"""Who is there, what they run, and how their channels hang together, as far as they tell: a crawl by `/rr/info/1`."""
