// Time and memory over length, from the benchmarks.

const speedChoice = {};

function speed() {
  const place = section("speed");
  clear(place);
  const about =
    "Medians of the benchmarks, one attention layer; both axes logarithmic, so that a straight line of slope one is linear growth. The filters leave them as they are.";
  place.append(el("h2", {}, "Speed and memory"), el("p", { class: "note" }, about));
  const cases = DATA.speed.flatMap((entry, index) =>
    distinct(entry.rows.map((row) => `${index}|${row.mode}|${row.direction}`)),
  );
  if (!cases.length) return place.append(empty("No benchmark table was found."));
  // A curve says more than a point: cases with several lengths come first.
  const rowsOf = (key) => {
    const [index, mode, direction] = key.split("|");
    return DATA.speed[index].rows.filter((row) => row.mode === mode && row.direction === direction);
  };
  const lengths = (key) => distinct(rowsOf(key).map((row) => row.tokens)).length;
  const options = cases
    .sort((a, b) => lengths(b) - lengths(a))
    .map((key) => {
      const [index, mode, direction] = key.split("|");
      return [key, `${mode}, ${direction} (${DATA.speed[index].name})`];
    });
  speedChoice.key = stillThere(options, speedChoice.key);
  const again = (value) => {
    speedChoice.key = value;
    speed();
  };
  place.append(el("div", { class: "controls" }, choice("Benchmark", options, speedChoice.key, again)));
  place.append(el("p", { class: "note" }, DATA.speed[speedChoice.key.split("|")[0]].about));
  const rows = rowsOf(speedChoice.key);
  const panel = (title, unit, name, scale) =>
    rows.some((row) => row[name] != null) &&
    el(
      "div",
      {},
      el("h3", {}, title),
      plot(`${title} over tokens`, () => overLength(rows, name, unit, scale)),
    );
  place.append(
    el(
      "div",
      { class: "panels" },
      [panel("Time", "milliseconds", "median_s", 1e3), panel("Extra memory", "megabytes", "extra_bytes", 1e-6)].filter(
        Boolean,
      ),
    ),
  );
}

function overLength(rows, name, unit, scale) {
  const contenders = distinct(rows.map((row) => row.contender));
  const traces = contenders.map((contender, index) => {
    const own = rows
      .filter((row) => row.contender === contender && row[name] != null)
      .sort((a, b) => a.tokens - b.tokens);
    const base = contenders[0];
    const ratio = (row) => {
      const other = rows.find((entry) => entry.contender === base && entry.tokens === row.tokens)?.[name];
      return other && contender !== base ? `<br>${number(other / row[name], 2)}× less than ${plain(base)}` : "";
    };
    return {
      type: "scatter",
      mode: "lines+markers",
      name: plain(contender),
      x: own.map((row) => row.tokens),
      y: own.map((row) => scale * row[name]),
      line: { color: contender === base ? ink() : colour(contender), width: 2, dash: DASHES[index % DASHES.length] },
      marker: { size: 8, symbol: SYMBOLS[index % SYMBOLS.length] },
      hovertext: own.map(
        (row) =>
          `<b>${plain(contender)}</b>, ${number(row.tokens, 0)} tokens<br>${number(scale * row[name], 2)} ${unit}${ratio(row)}`,
      ),
      hoverinfo: "text",
    };
  });
  const ticks = distinct(rows.map((row) => row.tokens)).sort((a, b) => a - b);
  return {
    traces,
    options: {
      xaxis: axis("tokens", { type: "log", tickvals: ticks, ticktext: ticks.map((tick) => number(tick, 0)) }),
      yaxis: axis(unit, { type: "log", dtick: "D2" }),
    },
  };
}
