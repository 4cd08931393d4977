// Curves of training, and weights over dot products.

const curveChoice = {};

function training(runs) {
  const place = section("training");
  clear(place);
  const about =
    "What was logged while a stage trained, of the settings that won; one line for each run, dashed by seed. A distilled state's loss is the distance of its attention weights, no loss of the task.";
  place.append(el("h2", {}, "Training"), el("p", { class: "note" }, about));
  const entries = runs.flatMap((run) =>
    run.curves.filter((curve) => !curve.name.startsWith("analysis/")).map((curve) => ({ run, curve })),
  );
  if (!entries.length)
    return place.append(
      empty("No run that matches the filters has curves of training in its record; older records have none."),
    );
  const tables = distinct(entries.map(({ run }) => String(run.group))).map((index) => [
    index,
    tableName(DATA.groups[index]),
  ]);
  curveChoice.table = stillThere(tables, curveChoice.table);
  const here = entries.filter(({ run }) => String(run.group) === curveChoice.table);
  const ordered = [...here].sort((a, b) => stageOrder(a.curve.stage) - stageOrder(b.curve.stage));
  // Some older records count optimizer steps, where others count batches.
  const kind = ({ curve }) => `${curve.stage}|${curve.name}|${curve.x_name}`;
  const names = distinct(ordered.map(kind)).map((key) => {
    const [stage, name, over] = key.split("|");
    return [key, `${name} over ${over} (${DATA.states[stage] ?? stage})`];
  });
  curveChoice.name = stillThere(names, curveChoice.name);
  const again = (name) => (value) => {
    curveChoice[name] = value;
    training(matching());
  };
  place.append(
    el(
      "div",
      { class: "controls" },
      choice("Task", tables, curveChoice.table, again("table")),
      choice("Curve", names, curveChoice.name, again("name")),
    ),
  );
  const shown = here.filter((entry) => kind(entry) === curveChoice.name);
  const [, name, over] = curveChoice.name.split("|");
  place.append(plot("Curves of training", () => lines(shown, over, name)));
}

const CURVES = {
  "analysis/monotonicity|q.k": [
    "Weight over dot product",
    "q·k/√d less the query's log-sum-exp (log of softmax's weight)",
    "log of the weight (nats)",
  ],
  "analysis/entropy_histogram|entropy_normalised": [
    "Distribution of entropy",
    "entropy / log(visible keys)",
    "share of queries",
  ],
  "analysis/kl|position": ["KL over position", "position of the query (tokens)", "KL (nats)"],
  "analysis/entropy_normalised|position": [
    "Entropy over position",
    "position of the query (tokens)",
    "entropy / log(visible keys)",
  ],
};

function monotonicity(runs) {
  const place = section("monotonicity");
  clear(place);
  const about =
    "Attention weight over the dot product q·k, both as softmax would have them: it lies on the dotted diagonal. A map under which the weight falls or stays flat mixes up what the trained model tells apart. Lines are medians, bands the middle 80 %. Other curves of attention can be chosen where they were recorded.";
  place.append(el("h2", {}, "Monotonicity"), el("p", { class: "note" }, about));
  const entries = runs.flatMap((run) =>
    run.curves.filter((curve) => curve.name.startsWith("analysis/")).map((curve) => ({ run, curve })),
  );
  if (!entries.length)
    return place.append(empty("No run that matches the filters has recorded its weights over dot products."));
  const again = (name) => (value) => {
    curveChoice[name] = value;
    monotonicity(matching());
  };
  const kind = ({ curve }) => `${curve.name}|${curve.x_name}`;
  const kinds = distinct(entries.map(kind)).map((key) => [key, CURVES[key]?.[0] ?? key.replace("|", " over ")]);
  curveChoice.kind = stillThere(kinds, curveChoice.kind ?? "analysis/monotonicity|q.k");
  const alike = entries.filter((entry) => kind(entry) === curveChoice.kind);
  const tables = distinct(alike.map(({ run }) => `${run.group}|${run.seed}`)).map((key) => {
    const [index, seed] = key.split("|");
    return [key, `${tableName(DATA.groups[index])} · seed ${seed}`];
  });
  curveChoice.place = stillThere(tables, curveChoice.place);
  const here = alike.filter(({ run }) => `${run.group}|${run.seed}` === curveChoice.place);
  const stages = distinct(here.map(({ curve }) => curve.stage))
    .sort((a, b) => stageOrder(a) - stageOrder(b))
    .map((stage) => [stage, DATA.states[stage] ?? stage]);
  curveChoice.stage = stillThere(stages, curveChoice.stage ?? stages.at(-1)[0]);
  place.append(
    el(
      "div",
      { class: "controls" },
      choice("Curve", kinds, curveChoice.kind, again("kind")),
      choice("Task and seed", tables, curveChoice.place, again("place")),
      choice("State", stages, curveChoice.stage, again("stage")),
    ),
  );
  const shown = here.filter(({ curve }) => curve.stage === curveChoice.stage);
  const [title, x, y] = CURVES[curveChoice.kind] ?? [kinds.find(([key]) => key === curveChoice.kind)[1], shown[0].curve.x_name, shown[0].curve.name];
  place.append(
    plot(title, () => {
      const figure = lines(shown, x, y);
      if (curveChoice.kind === "analysis/monotonicity|q.k") figure.options.shapes = [diagonal(shown)];
      return figure;
    }),
  );
}

function diagonal(entries) {
  const all = entries.flatMap(({ curve }) => curve.x).filter((value) => value != null);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const line = { color: css("--quiet"), width: 1, dash: "dot" };
  return { type: "line", x0: low, x1: high, y0: low, y1: high, line, layer: "below" };
}

function lines(entries, xName, yName) {
  const labels = distinct(entries.map(({ run }) => run.label));
  const traces = entries.flatMap(({ run, curve }) => {
    const dash = DASHES[(labels.length > ATTENTIONS.length ? labels.indexOf(run.label) : run.seed) % DASHES.length];
    const line = {
      type: "scatter",
      mode: curve.x.length > 1 ? "lines" : "markers",
      name: plain(`${run.label} · seed ${run.seed}`),
      x: curve.x,
      y: curve.y,
      line: { color: colour(run.attn), width: 1.8, dash },
      marker: { color: colour(run.attn), size: 8 },
      legendgroup: run.label,
      hovertext: curve.x.map(
        (x, index) =>
          `<b>${plain(run.label)}</b> · seed ${run.seed}<br>${plain(xName)} ${number(x, Number.isInteger(x) ? 0 : 2)}: ${number(curve.y[index], 4)}`,
      ),
      hoverinfo: "text",
    };
    if (!curve.low.length) return [line];
    const edge = {
      type: "scatter",
      mode: "lines",
      x: curve.x,
      line: { width: 0 },
      hoverinfo: "skip",
      showlegend: false,
      legendgroup: run.label,
    };
    return [
      { ...edge, y: curve.low },
      { ...edge, y: curve.high, fill: "tonexty", fillcolor: `${toHex(colour(run.attn))}1f` },
      line,
    ];
  });
  return { traces, options: { xaxis: axis(plain(xName)), yaxis: axis(plain(yName)), height: 420 } };
}

// Colours of the theme are hexadecimal already, some with three digits.
const toHex = (text) => (text.length === 4 ? `#${[...text.slice(1)].map((digit) => digit + digit).join("")}` : text);
