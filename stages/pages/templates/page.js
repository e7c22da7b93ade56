"use strict";
document.documentElement.classList.add("live");

// A click on a column's name sorts by it; numbers by their data-value, the first click from the top down.
for (const table of document.querySelectorAll("table.sortable")) {
  const names = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  names.forEach((name, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...name.childNodes);
    name.append(button);
    button.addEventListener("click", () => {
      const key = (row) => {
        const cell = row.cells[column];
        if (!cell) return "";
        const text = cell.dataset.value ?? cell.textContent.replaceAll(",", "").replace("\u2212", "-").trim();
        const value = Number.parseFloat(text);
        return name.classList.contains("n") ? (Number.isNaN(value) ? -Infinity : value) : text.toLowerCase();
      };
      const was = name.getAttribute("aria-sort");
      const numeric = name.classList.contains("n");
      const down = was ? was === "ascending" : numeric;
      names.forEach((other) => other.removeAttribute("aria-sort"));
      name.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      [...body.rows]
        .map((row) => [key(row), row])
        .sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1))
        .forEach(([, row]) => body.append(row));
    });
  });
}

// Selects with data-filter="<attribute>" hide the cards of their section that do not have the chosen value.
for (const section of document.querySelectorAll("[data-filtered]")) {
  const choices = [...section.querySelectorAll("select[data-filter]")];
  const cards = [...section.querySelectorAll("[data-card]")];
  const shown = section.querySelector("[data-shown]");
  const apply = () => {
    let left = 0;
    for (const card of cards) {
      const fits = choices.every((choice) => !choice.value || (card.dataset[choice.dataset.filter] ?? "").split(" ").includes(choice.value));
      card.hidden = !fits;
      left += fits;
    }
    const chosen = choices.some((choice) => choice.value);
    for (const rest of section.querySelectorAll("details[data-rest]")) rest.open = chosen;
    for (const group of section.querySelectorAll("[data-group]")) group.hidden = !group.querySelector("[data-card]:not([hidden])");
    if (shown) shown.textContent = `${left} of ${cards.length} shown`;
  };
  choices.forEach((choice) => choice.addEventListener("change", apply));
  apply();
}
