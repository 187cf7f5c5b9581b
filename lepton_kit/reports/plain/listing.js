// Tables of a listing can be filtered, sorted, and are shown a page at a time; without a script they are whole tables.
addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.listing")) {
    const { filter, sort, page } = table.dataset;
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    let order = rows, words = [], most = Number(page) || rows.length;

    const more = document.createElement("button");
    more.className = "more";
    more.type = "button";
    more.onclick = () => { most += Number(page); show(); };

    const count = document.createElement("span");
    count.setAttribute("role", "status");

    function show() {
      const found = order.filter((row) => words.every((word) => texts.get(row).includes(word)));
      body.replaceChildren(...found.slice(0, most));
      more.textContent = `Show more (${found.length - most} left)`;
      more.hidden = found.length <= most;
      count.textContent = words.length ? `${found.length} of ${rows.length}` : "";
    }

    if (filter && rows.length > 1) {
      const label = document.createElement("label");
      const input = document.createElement("input");
      input.type = "search";
      input.oninput = () => {
        words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
        show();
      };
      label.append("Filter ", input);
      const line = document.createElement("p");
      line.className = "filter";
      line.append(label, " ", count);
      table.parentElement.before(line);
    }

    if (sort && rows.length > 1) {
      for (const [place, head] of [...table.tHead.rows[0].cells].entries()) {
        if (!head.textContent.trim()) continue;
        const button = document.createElement("button");
        button.type = "button";
        button.append(...head.childNodes);
        button.onclick = () => {
          const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
          for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
          head.setAttribute("aria-sort", down > 0 ? "ascending" : "descending");
          const value = (row) => {
            const text = row.cells[place].textContent;
            const lasted = /^(?:(\d+) min )?([\d.]+) s$/.exec(text);
            return lasted ? String(60 * Number(lasted[1] || 0) + Number(lasted[2])) : text;
          };
          order = [...rows].sort((a, b) => down * value(a).localeCompare(value(b), "en", { numeric: true }));
          show();
        };
        head.append(button);
      }
    }

    table.parentElement.after(more);
    show();
  }
});
