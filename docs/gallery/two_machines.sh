# Two machines, and a home folder for NNI's list of experiments. The trap removes them at the end, also after a failure.
trap 'bash two_machines_stand_in.sh down' EXIT
bash two_machines_stand_in.sh up
mkdir home; export HOME="$PWD/home"

mkdir experiment
nni-cream examples copy cream_remote --out experiment/cream_remote.yml
patch experiment/cream_remote.yml two_machines_edits.diff

# Can we log in with the key, and is nni_cream there?
for machine in north south; do
    ssh -F machines/ssh_config "$machine" 'hostname; nni_cream/.venv/bin/python -m nni_cream --version'
done

nni-cream run experiment/cream_remote.yml --out out

# Where did the trials run? Each left a folder on its machine, those of the searches with a checkpoint.
for machine in north south; do
    ssh -F machines/ssh_config "$machine" 'echo "$(hostname), $(hostname -I)"
        find nni-experiments -name trial.log -o -name last.ckpt'
done

# What came back to this computer?
find out -type f -not -path '*/log/*'
sed -n '/"choices"/,/}/p; /"retrained"/,/}/p' out/best.json
