// Everything once, and what depends on the filters whenever they change.

const PARTS = [tellCount, leaderboard, fidelity, training, heads, monotonicity, maps, runsTable];

function drawRuns() {
  const runs = matching();
  PARTS.forEach((part) => part(runs));
}

drawFilters(drawRuns);
drawRuns();
speed();
paper();
section("detail").addEventListener("close", () => history.replaceState(null, "", location.pathname));
addEventListener("hashchange", openAddressed);
openAddressed();
