"""One run, spread over processes and machines: who does the work (crew), what they do (tasks), and who leads (lead)."""
