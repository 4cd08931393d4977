// Means over seeds, in one table for each task, model and source.

// One entry for each table, with one row for each variant of attention in it.
function leaderboardGroups(runs) {
  // A seed that ran again, elsewhere or analysed in full, is still one seed.
  const finished = runs.filter((run) => run.status === "finished" && run.counted);
  return distinct(finished.map((run) => run.group)).map((index) => {
    const members = finished.filter((run) => run.group === index);
    const of = DATA.groups[index];
    const rows = distinct(members.map((run) => run.label)).map((label) => {
      const same = members.filter((run) => run.label === label);
      const mean = (state, name) => interval(same.map((run) => run.states[state]?.[name]));
      const training = same.map((run) =>
        Object.entries(run.states).reduce(
          (sum, [state, cost]) => sum + (state === "teacher" ? 0 : (cost.wall_s ?? 0)),
          0,
        ),
      );
      return {
        label,
        of,
        attn: same[0].attn,
        seeds: same.length,
        teacher: mean("teacher", "score"),
        no_train: mean("no_train", "score"),
        distilled: mean("distilled", "score"),
        final: mean(of.final, "score"),
        kept: mean(of.final, "kept"),
        kl: mean(of.final, "kl"),
        entropy: mean(of.final, "entropy"),
        training: interval(training),
      };
    });
    return { of, rows };
  });
}

function leaderboard(runs) {
  const groups = leaderboardGroups(runs);
  const place = section("leaderboard");
  const about =
    "Mean ± 95 % interval over seeds (Student's t); one seed has none, and what was not measured stays a gap. Scores are in percent, or perplexities where the header says PPL; KL to softmax and entropy in nats; training without the teacher.";
  place.replaceChildren(el("h2", {}, "Leaderboard"), el("p", { class: "note" }, about));
  if (!groups.length) return place.append(empty("No finished run matches the filters."));
  const score = (title, name) => ({
    title,
    value: (row) => row[name]?.mean,
    show: (row) => intervalNode(row[name], row.of.decimals),
  });
  const columns = [
    {
      title: "attention",
      text: true,
      value: (row) => row.label,
      show: (row) => [el("span", { class: "swatch", style: `background:${tint(row.attn)}` }), row.label],
    },
    {
      title: "% of teacher",
      value: (row) => row.kept?.mean,
      show: (row) => [intervalNode(row.kept, 1), keptBar(row, groups)],
    },
    {
      title: "final",
      value: (row) => row.final?.mean,
      show: (row) => el("span", { class: isBest(row, groups) && "best" }, intervalNode(row.final, row.of.decimals)),
    },
    score("teacher", "teacher"),
    score("no train", "no_train"),
    score("distilled", "distilled"),
    { title: "KL", value: (row) => row.kl?.mean, show: (row) => intervalNode(row.kl, 3) },
    { title: "entropy", value: (row) => row.entropy?.mean, show: (row) => intervalNode(row.entropy, 2) },
    { title: "training", value: (row) => row.training?.mean, show: (row) => seconds(row.training?.mean) },
    { title: "seeds", value: (row) => row.seeds, show: (row) => row.seeds },
  ];
  const title = (of) => () => [
    `${of.task} · ${of.metric}`,
    el("span", { class: "quiet" }, ` ${of.regime} · ${of.model} · ${of.source}${dataName(of)}`),
  ];
  place.append(
    sortableTable(
      "Leaderboard",
      columns,
      groups.map(({ of, rows }) => ({ title: title(of), rows })),
      { column: 1, down: true },
    ),
  );
}

// The best attention that is not softmax itself.
function isBest(row, groups) {
  const rivals = groups.find(({ of }) => of === row.of).rows.filter((other) => other.attn !== "softmax" && other.final);
  const sign = row.of.lower_is_better ? -1 : 1;
  return (
    rivals.length > 1 &&
    rivals.includes(row) &&
    rivals.every((other) => sign * other.final.mean <= sign * row.final.mean)
  );
}

// A dot with its interval on a line, and a tick at the teacher's 100 %; rows of one table share their scale.
function keptBar(row, groups) {
  const all = groups
    .find(({ of }) => of === row.of)
    .rows.map((other) => other.kept?.mean)
    .filter((value) => value != null);
  if (!row.kept) return null;
  const low = Math.max(0, Math.min(95, ...all) - 2),
    high = Math.max(102, ...all);
  const width = 110,
    at = (value) => 5 + (width - 10) * Math.min(1, Math.max(0, (value - low) / (high - low)));
  const svg = (tag, attributes, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
    node.append(...children);
    return node;
  };
  const { mean, half } = row.kept;
  const line = (from, to, y, y2, colour) =>
    svg("line", { x1: from, x2: to, y1: y, y2, stroke: colour, "stroke-width": 2 });
  const parts = [line(5, width - 5, 9, 9, "var(--line)"), line(at(100), at(100), 2, 16, "var(--quiet)")];
  if (half != null) parts.push(line(at(mean - half), at(mean + half), 9, 9, tint(row.attn)));
  const name = `${intervalText(row.kept, 1)} % of the teacher`;
  return svg(
    "svg",
    { class: "bar", width, height: 18, role: "img", "aria-label": name },
    ...parts,
    svg("circle", { cx: at(mean), cy: 9, r: 4.5, fill: tint(row.attn) }),
    svg("title", {}, name),
  );
}
