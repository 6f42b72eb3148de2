"""What the proxy costs: against a direct connection and against a bare aiohttp tee, in one run.

The rule: only figures of one run are compared, and a figure counts only if every byte behind it was right.

    __main__    the command
    rounds      every scenario, round by round, each round for every subject
    scenarios   what is done to a subject, and which figures come of it: a new one is a function and a line
    subjects    what is measured, and how it is started: a new one is a function and a line
    stage       the upstream, the load generator and the cores that all subjects share
    processes   programs that were started: their CPU time, their memory, their end
    report      medians, spreads, ratios; the table and the JSON

    upstream, load, tee     programs of their own
    questions, orders       what they say to one another
    connection, precise     a client that checks every byte, and a clock that it can rely on
"""
