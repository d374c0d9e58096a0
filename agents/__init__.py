"""Agents: one method a file, each with a `Config` and a pure `train(env, config, key)`."""

if __name__ == "agents":
    raise ImportError("import dmdenv.agents instead of agents: a second copy of every class would be made otherwise")
