// Finds words in all pages of the site. The index is a script, because from a folder a browser lets no page fetch a file.
addEventListener("DOMContentLoaded", () => {
  const box = document.querySelector("nav .search");
  const input = box.querySelector("input");
  const list = box.querySelector("ul");
  let entries;
  box.hidden = false;

  function plain(text) {
    return new DOMParser().parseFromString(text, "text/html").body.textContent;
  }

  function show() {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const has = (entry) => words.every((word) => `${entry.title} ${entry.section} ${entry.text}`.toLowerCase().includes(word));
    const found = words.length && entries ? entries.filter(has).slice(0, 10) : [];
    list.replaceChildren(...found.map((entry) => {
      const text = plain(entry.text);
      const at = Math.max(0, text.toLowerCase().indexOf(words[0]) - 40);
      const link = document.createElement("a");
      link.href = box.dataset.root + entry.href;
      link.textContent = [entry.title, entry.section].filter(Boolean).join(": ");
      const item = document.createElement("li");
      item.append(link, ` …${text.slice(at, at + 160)}…`);
      return item;
    }));
    list.hidden = !found.length;
  }

  function load() {
    if (window.leptonFetched) return;
    window.leptonFetched = { "search.json": (text) => { entries = JSON.parse(text); show(); } };
    const script = document.createElement("script");
    script.src = `${box.dataset.root}search.json.js`;
    document.head.append(script);
  }

  input.onfocus = load;
  input.oninput = () => { load(); show(); };
});
