cat > mine.yml <<'YAML'
space: own_space_of_mine:Mine
data: digits
search: {epochs: 30, batch_size: 32, learning_rate: 0.05, cost: macs, cost_range: [null, 200000]}
retrain: {top: 2, epochs: 20, batch_size: 32, learning_rate: 0.05}
trainer: {accelerator: cpu, threads: 1}
YAML

nni-cream go mine.yml --out out 2>/dev/null

nni-cream board out/search --choices

tail -n 25 out/export/network.py
