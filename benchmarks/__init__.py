"""What the proxy costs: against nginx, against what its language costs alone, and against peers, in one run.

The rule: only figures of one run are compared, and a figure counts only if every byte behind it was right.

    __main__    the command
    run         all of it, from what was chosen to what is printed
    rounds      every scenario, round by round, each round for every subject
    scenarios   what is done to each subject, and how much of it: a new one is a line
    doing       how it is done, and the figures that come of it
    subjects    what is measured, and how it is started: a new one is a line, or a function and a line
    peers       programs of others: how they are configured
    place       where a subject runs
    stage       the upstream, the load generator and the cores that all subjects share
    processes   programs that were started: their CPU time, their memory, their end
    environment what the figures depend on besides the code
    report      medians, spreads, ratios
    targets     what was promised, and what came of it
    table       all of it as text

    native      the upstream and the load generator, in C, and the checks of every byte
    filling     stores that are full before anything is measured
    nearest     hits while a miss has the nearest recording looked for, and how long that takes
    at_scale    the store by itself, at the size that it may grow to
    costs       what a piece of work takes of this process, and what a command takes

    tee         the yardstick of a miss, a program of its own
    handler     the yardstick of a hit, a program of its own
    questions, orders       what these say to one another
"""
