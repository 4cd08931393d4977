// How what is kept goes with how well softmax is imitated.

function fidelity(runs) {
  const place = section("fidelity");
  clear(place);
  const rows = leaderboardGroups(runs)
    .flatMap((entry) => entry.rows)
    .filter((row) => row.kept && row.kl && row.kept.mean > 0);
  const about =
    "Each mark is one attention on one task: how far its weights are from softmax's, and how much of the teacher's score the final model keeps. Bars are 95 % intervals over seeds.";
  place.append(el("h2", {}, "Fidelity and quality"), el("p", { class: "note" }, about));
  if (!rows.length) return place.append(empty("No run with both a divergence and a teacher matches the filters."));
  // Shares of perplexities are of another size than those of scores.
  const parts = [
    ["Scores", rows.filter((row) => !row.of.lower_is_better)],
    ["Perplexities", rows.filter((row) => row.of.lower_is_better)],
  ].filter(([, some]) => some.length);
  place.append(
    el(
      "div",
      { class: "panels" },
      parts.map(([title, some]) => {
        const places = distinct(some.map((row) => row.of));
        const key = places.map((of, index) => `${SIGNS[index % SIGNS.length]} ${tableName(of)}`);
        return el(
          "div",
          {},
          el("h3", {}, title),
          plot(`${title}: share of the teacher's over divergence from softmax`, () => keptOverKl(some, places)),
          el("p", { class: "note" }, key.join("   ")),
        );
      }),
    ),
  );
}

const SIGNS = ["●", "■", "◆", "▲", "✖", "✚", "▼", "★", "⬟", "⬢"];

function keptOverKl(rows, places) {
  const traces = distinct(rows.map((row) => row.attn)).map((attn) => {
    const own = rows.filter((row) => row.attn === attn);
    // A logarithmic axis has no place for what lies below zero.
    const bars = (name, floor) => ({
      type: "data",
      symmetric: false,
      array: own.map((row) => row[name].half ?? 0),
      arrayminus: own.map((row) => Math.min(row[name].half ?? 0, floor * row[name].mean)),
      thickness: 1,
      width: 0,
    });
    const told = (row) => [
      `<b>${plain(row.label)}</b>`,
      `${plain(row.of.task)} · ${plain(row.of.model)}`,
      `${intervalText(row.kept, 1)} % of the teacher`,
      `KL ${intervalText(row.kl, 3)} nats`,
      `${row.seeds} seed${row.seeds > 1 ? "s" : ""}`,
    ];
    return {
      type: "scatter",
      mode: "markers",
      name: plain(attn),
      x: own.map((row) => row.kl.mean),
      y: own.map((row) => row.kept.mean),
      error_x: bars("kl", 0.8),
      error_y: bars("kept", 1),
      marker: {
        size: 11,
        color: colour(attn),
        symbol: own.map((row) => SYMBOLS[places.indexOf(row.of) % SYMBOLS.length]),
      },
      hovertext: own.map((row) => told(row).join("<br>")),
      hoverinfo: "text",
    };
  });
  const teacher = {
    type: "line",
    xref: "paper",
    x0: 0,
    x1: 1,
    y0: 100,
    y1: 100,
    line: { color: css("--quiet"), width: 1, dash: "dot" },
  };
  return {
    traces,
    options: {
      xaxis: axis("KL to softmax's weights (nats)", { type: "log", dtick: 1 }),
      yaxis: axis("% of the teacher's"),
      height: 430,
      shapes: [teacher],
    },
  };
}
