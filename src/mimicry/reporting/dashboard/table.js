// A table that sorts by its headers, within groups of rows where there are any.

// Columns have a title, value(row) to sort by, show(row) for the cell, and `text` where they are no numbers.
function sortableTable(label, columns, groups, start) {
  const table = el("table");
  let { column, down } = start;

  function sorted(rows) {
    const value = columns[column].value;
    const order = (left, right) =>
      typeof left === "string" ? left.localeCompare(right, "en", { numeric: true }) : left - right;
    return [...rows].sort((a, b) => {
      const [left, right] = [value(a), value(b)];
      // What was not measured comes last, whichever way it goes.
      if (left == null || right == null) return (left == null) - (right == null);
      return down ? order(right, left) : order(left, right);
    });
  }

  function head() {
    return el(
      "tr",
      {},
      columns.map((entry, index) => {
        const state = index !== column ? "none" : down ? "descending" : "ascending";
        const sort = () => {
          down = index === column ? !down : !entry.text;
          column = index;
          draw();
          table.querySelectorAll("th button")[index].focus();
          say(`${label}: sorted by ${entry.title}, ${down ? "descending" : "ascending"}`);
        };
        return el(
          "th",
          { scope: "col", class: entry.text && "text", "aria-sort": state },
          el("button", { type: "button", onclick: sort }, entry.title),
        );
      }),
    );
  }

  function body({ title, rows }) {
    const heading =
      title &&
      el("tr", { class: "group" }, el("th", { colspan: columns.length, scope: "rowgroup" }, el("div", {}, title())));
    const line = (row) =>
      el(
        "tr",
        {},
        columns.map((entry) =>
          el(
            "td",
            { class: [entry.text && "text", entry.wrap && "wrap"].filter(Boolean).join(" ") || null },
            entry.show(row),
          ),
        ),
      );
    return el("tbody", {}, heading, sorted(rows).map(line));
  }

  function draw() {
    table.replaceChildren(el("thead", {}, head()), ...groups.map(body));
  }

  draw();
  // Focusable, so that a keyboard can scroll it sideways.
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table);
}
