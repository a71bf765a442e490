# 500 training and 100 test images of each class; NNI_CREAM_REAL_DATA is a folder with cifar10/train/CLASS/*.jpg.
for folder in "$NNI_CREAM_REAL_DATA"/cifar10/{train,test}/*/; do
    part=$(basename "$(dirname "$folder")"); mkdir -p "cifar/$part/$(basename "$folder")"
    find "$folder" -type f | sort | head -n $([ "$part" = train ] && echo 500 || echo 100) \
        | xargs cp -t "cifar/$part/$(basename "$folder")"
done
ls cifar/train; find cifar -type f | wc -l

nni-cream init cifar 2> /dev/null

nni-cream data check search.yml --full 2> /dev/null

time nni-cream go search.yml --out out 2> /dev/null

nni-cream board out/search --choices

ls -s --block-size=1 out/export

# The script on the card classifies a picture without nni_cream and torch.
awk '/^```python/ {text = ""; next} /^```/ {if (text ~ /argv/) printf "%s", text; text = ""} {text = text $0 "\n"}' \
    out/export/README.md > out/export/classify.py
cd out/export; python classify.py "$(ls ../../cifar/test/ship/* | head -n 1)"; cd ../..

# All test images, likewise; the card says how they become the input.
python cifar_deployed.py out/export cifar/test
