nni-cream examples copy search_digits 2> /dev/null
nni-cream go search_digits.yml --out out > /dev/null 2>&1

nni-cream board out/search

nni-cream board out/search --choices

nni-cream plot out --out plots --format png
mkdir pictures; for name in plots/*.png plots/*.svg; do cp "$name" "pictures/board_$(basename "$name")"; done
