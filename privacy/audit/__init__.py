"""Audits: attacks with known answers, turned into lower bounds on epsilon with a stated confidence.

An audit can refute a claim; it cannot prove one. The order of every audit: fix the rule (`rule`, planned by simulation
in `game`), toss and seal the coins (`coins`), train, score (`scores`), and only then open the coins and `judge`. The
statistics are in `bounds` (many independent trials), `one_run` (one training run) and `tradeoff` (curves of the claimed
mechanism); `noise` attests noise on null coordinates; `cosines` is an estimate and no bound; `result` says what was
found. All of these import without torch; `dirac`, which attacks the real optimizer, and `foreign`, which attacks
somebody else's training loop, need it.
"""
