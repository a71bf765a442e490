nni-cream data scenes --out out/scenes
nni-cream examples copy detect_digits 2> /dev/null

time nni-cream detect train detect_digits.yml --out out/detector 2> /dev/null

nni-cream detect evaluate out/detector/config.yml

ls out/detector/pictures
mkdir pictures; cp "$(ls out/detector/pictures/* | head -n 1)" pictures/detection.png
