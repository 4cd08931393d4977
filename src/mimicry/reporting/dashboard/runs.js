// Every run with its link and its command, and all that its record says.

function runsTable(runs) {
  const place = section("runs");
  const about = "The command gives the run again; the link leads to its record. A name opens all that the record says.";
  place.replaceChildren(el("h2", {}, "Runs"), el("p", { class: "note" }, about));
  if (!runs.length) return place.append(empty("No run matches the filters."));
  const columns = [
    {
      title: "run",
      text: true,
      value: (run) => run.label,
      show: (run) => el("a", { href: `#run-${run.id}` }, run.label),
    },
    { title: "command", text: true, value: (run) => run.command, show: (run) => copyButton(run) },
    { title: "task", text: true, value: (run) => where(run), show: (run) => where(run) },
    { title: "seed", value: (run) => run.seed, show: (run) => run.seed },
    { title: "status", text: true, value: (run) => run.status, show: (run) => chip(run.status) },
    {
      title: "final",
      value: (run) => finalOf(run).score,
      show: (run) => number(finalOf(run).score, group(run).decimals),
    },
    { title: "% of teacher", value: (run) => finalOf(run).kept, show: (run) => number(finalOf(run).kept, 1) },
    { title: "time", value: (run) => run.wall_s, show: (run) => seconds(run.wall_s) },
    { title: "memory", value: (run) => run.memory_bytes, show: (run) => bytes(run.memory_bytes) },
    { title: "started", text: true, value: (run) => run.started_at, show: (run) => run.started_at.slice(0, 10) },
    {
      title: "record",
      text: true,
      value: (run) => run.href,
      show: (run) => el("a", { href: encodeURI(run.href), title: run.href }, group(run).source),
    },
  ];
  place.append(sortableTable("Runs", columns, [{ rows: runs }], { column: 9, down: true }));
}

function copyButton(run) {
  const button = el(
    "button",
    { type: "button", title: run.command, "aria-label": `Copy the command of ${runTitle(run)}` },
    "Copy",
  );
  button.addEventListener("click", async () => {
    if (await copied(run.command)) {
      button.textContent = "Copied";
      say("Command copied");
    } else {
      prompt("Copy the command:", run.command);
    }
    setTimeout(() => {
      button.textContent = "Copy";
    }, 2500);
  });
  return button;
}

// Browsers that keep the clipboard from local files still copy a selection.
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = el("textarea", { readonly: true, class: "visually-hidden" }, text);
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

function openRun(run) {
  const of = group(run),
    dialog = section("detail");
  const facts = {
    Status:
      (run.status === "failed" ? `failed: ${run.reason}` : run.status) +
      (run.counted ? "" : "; in means another run of this seed and these settings counts"),
    Experiment: of.source,
    Regime: of.regime,
    Started: run.started_at.replace("T", " ").replace("+00:00", " UTC"),
    Took:
      seconds(run.wall_s) + (run.analysis_s == null ? "" : `, of which ${seconds(run.analysis_s)} to analyse attention`),
    "Peak memory": bytes(run.memory_bytes),
    Machine: run.machine,
    Code: run.commit ? `${run.commit.slice(0, 12)}${run.dirty ? ", with changes" : ""}` : "outside a repository",
    Packages: Object.entries(run.versions)
      .map(([name, version]) => `${name} ${version}`)
      .join(", "),
    Data: of.data.replace(/^Data: /, ""),
  };
  const note = run.own_command
    ? null
    : el(
        "p",
        { class: "note" },
        "Made from the record, which is older than the keeping of commands: the config below is what ran.",
      );
  dialog.replaceChildren(
    el(
      "div",
      { class: "head" },
      el("h2", {}, runTitle(run)),
      el("button", { type: "button", onclick: () => dialog.close() }, "Close"),
    ),
    el("div", { class: "command" }, el("pre", {}, run.command), copyButton(run)),
    note,
    el("p", {}, el("a", { href: encodeURI(run.href) }, run.href)),
    stateTable(run),
    el(
      "dl",
      {},
      Object.entries(facts).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value || GAP)]),
    ),
    el("details", {}, el("summary", {}, "Config"), el("pre", {}, run.config)),
  );
  dialog.showModal();
  dialog.scrollTop = 0;
}

function stateTable(run) {
  const of = group(run),
    names = distinct(Object.values(run.states).flatMap((state) => Object.keys(state.others ?? {})));
  const header = ["state", of.metric, "% of teacher", ...names, "KL (nats)", "entropy (nats)", "steps", "time"];
  const row = ([name, state]) => [
    DATA.states[name],
    number(state.score, of.decimals),
    number(state.kept, 1),
    ...names.map((other) => number(state.others?.[other], of.decimals)),
    number(state.kl, 3),
    number(state.entropy, 3),
    number(state.steps, 0),
    state.reused ? "reused" : seconds(state.wall_s),
  ];
  const cells = (tag, texts) =>
    el(
      "tr",
      {},
      texts.map((text, index) =>
        el(tag, { class: index ? null : "text", style: tag === "th" && "padding:.45rem .7rem" }, text),
      ),
    );
  return el(
    "div",
    { class: "scroll", tabindex: "0" },
    el(
      "table",
      {},
      el("thead", {}, cells("th", header)),
      el(
        "tbody",
        {},
        Object.entries(run.states).map((entry) => cells("td", row(entry))),
      ),
    ),
  );
}

// A run has an address of its own: #run-<id>.
function openAddressed() {
  const run = DATA.runs.find((entry) => `#run-${entry.id}` === location.hash);
  if (run) openRun(run);
}
