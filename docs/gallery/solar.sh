python solar_images.py

nni-cream init solar 2> /dev/null

# A detector of cracks for a small computer: larger images, narrower layers, more epochs, and two budgets.
cp search.yml proposed.yml
sed -i -E -e 's/^( *channels:) \[.*/\1 [8, 8, 16, 16, 32, 32, 64, 64, 96, 96]/' \
    -e 's/^( *image_size:).*/\1 128/' \
    -e '/^search:/,/^retrain:/ s/^( *epochs:).*/\1 30\n  score: balanced_accuracy/' \
    -e '/^retrain:/,$ s/^( *epochs:).*/\1 40/' \
    -e 's/^( *cost:).*/\1 [latency, macs]/' \
    -e 's/^( *cost_range:).*/\1 {latency: [null, 0.0015], macs: [null, 8.8e+6]}/' search.yml
printf '\nlatency: {threads: 1}\n' >> search.yml
diff proposed.yml search.yml || true

nni-cream latency search.yml --out latencies.json 2> /dev/null
sed -i 's/^latency:.*/latency: {threads: 1, table: latencies.json}/' search.yml

time nni-cream go search.yml --out out/0 2> /dev/null

# Two more seeds.
for seed in 1 2; do
    sed "s/^  seed: .*/  seed: $seed/" search.yml > "search_$seed.yml"
    nni-cream go "search_$seed.yml" --out "out/$seed" > /dev/null 2>&1
done
python solar_figures.py out/0 out/1 out/2

time python solar_baseline.py search.yml 2> /dev/null

nni-cream plot out/0 > /dev/null
mkdir pictures; for name in cost retraining; do cp "out/0/plots/$name.svg" "pictures/solar_$name.svg"; done
