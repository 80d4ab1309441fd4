"use strict";
// A click on a column heading sorts a table of scores: best first, then worst first, then unsorted.
// Baselines stay below the runs; missing values come last.
(() => {
  for (const table of document.querySelectorAll("table.scores")) {
    const body = table.tBodies[0];
    const written = [...body.rows];
    const runs = written.filter((row) => !row.classList.contains("baseline"));
    if (runs.length < 2) continue;
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    const key = (row, column) => {
      const cell = row.cells[column];
      return column === 0 ? cell.textContent.trim() : cell.dataset.value;
    };
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      const first = column === 0 || head.querySelector(".lower") ? "ascending" : "descending";
      const turn = { [first]: first === "ascending" ? "descending" : "ascending" };
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const next = now === null ? first : turn[now];
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        if (next === undefined) { body.append(...written); return; }
        head.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        const order = [...runs].sort((a, b) => {
          const [x, y] = [key(a, column), key(b, column)];
          if (column === 0) return sign * x.localeCompare(y);
          if (x === "" || y === "") return Number(x === "") - Number(y === "");
          return sign * (Number(x) - Number(y));
        });
        body.append(...order, ...written.filter((row) => !runs.includes(row)));
      });
    });
  }
})();
