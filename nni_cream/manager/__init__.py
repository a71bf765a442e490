"""NNI's side: tuner, trials, plan, assessor, REST client, board page."""
