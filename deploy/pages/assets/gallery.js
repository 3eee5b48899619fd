"use strict";
// Without this script every entry stands below the list, one after the other. With it, two stand side by side.
(() => {
  const entries = [...document.querySelectorAll(".entry")];
  const compare = document.getElementById("compare");
  const store = document.getElementById("entries");
  if (!entries.length) return;
  const slots = [...compare.querySelectorAll(".slot")];
  const selects = [...compare.querySelectorAll("select")];
  const buttons = [...document.querySelectorAll(".picks button")];
  const table = compare.querySelector("tbody");
  const runs = entries.filter((entry) => entry.dataset.kind === "run");
  const first = runs.length > 1 ? runs : entries;
  const picked = [first[0], first[Math.min(1, first.length - 1)]];

  function show() {
    for (const entry of entries) store.append(entry);
    picked.forEach((entry, side) => {
      const twice = side === 1 && picked[0] === entry;
      slots[side].replaceChildren(twice ? entry.cloneNode(true) : entry);
      if (twice) slots[side].firstElementChild.removeAttribute("id");
      selects[side].value = picked[side].id;
    });
    for (const button of buttons) {
      const own = button.closest(".card").dataset.entry;
      button.setAttribute("aria-pressed", String(picked[Number(button.dataset.slot)].id === own));
    }
    table.replaceChildren(...rows());
  }

  function rows() {
    const [left, right] = picked.map((entry) => [...entry.querySelectorAll(".figures dd")].map((cell) => cell.textContent));
    const labels = [...picked[0].querySelectorAll(".figures dt")].map((label) => label.textContent);
    const known = labels.map((label, place) => place).filter((place) => left[place] !== "–" || right[place] !== "–");
    return known.map((place) => {
      const row = document.createElement("tr");
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = labels[place];
      row.append(head);
      for (const value of [left[place], right[place]]) row.insertCell().textContent = value;
      row.classList.toggle("differs", left[place] !== right[place]);
      return row;
    });
  }

  function pick(side, id) {
    picked[side] = entries.find((entry) => entry.id === id);
    show();
  }

  // Tiles say what they are on hover; as buttons they would be a hundred stops for the keyboard.
  for (const tile of document.querySelectorAll(".tile")) tile.tabIndex = -1;
  for (const select of selects) select.addEventListener("change", () => pick(Number(select.dataset.slot), select.value));
  for (const button of buttons) {
    button.addEventListener("click", () => pick(Number(button.dataset.slot), button.closest(".card").dataset.entry));
  }
  for (const link of document.querySelectorAll(".card h2 a")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      pick(0, link.closest(".card").dataset.entry);
      compare.scrollIntoView();
    });
  }
  for (const element of document.querySelectorAll("[data-needs-script]")) element.hidden = false;
  store.hidden = true;
  show();
})();
