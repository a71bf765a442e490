nni-cream examples copy search_digits 2>&1 | tail -n 1

# A process that is killed at once, in the middle of the search.
(nni-cream go search_digits.yml --out out > log.txt 2>&1 & echo $! > pid; wait) &
until grep -qs "^{" out/search/metrics.jsonl && [ "$(wc -l < out/search/metrics.jsonl)" -ge 20 ]; do sleep 0.2; done
kill -9 "$(cat pid)"
wait; tail -n 2 log.txt

nni-cream go search_digits.yml --out out 2>&1 || echo "exit code $?"

nni-cream go search_digits.yml --out out --resume 2>&1 | grep -v "^epoch [23]"

# The same without an interruption: is the result equal?
nni-cream go search_digits.yml --out whole > /dev/null 2>&1; cmp out/best.json whole/best.json && echo equal
