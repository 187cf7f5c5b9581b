// A reader looks closer at a figure: its chart is drawn in the place of the picture, with hover and zoom, and back.
const folder = document.currentScript.src.replace(/[^/]*$/, "");
const loaded = () => (loaded.once ??= new Promise((done, failed) => {
  const script = document.createElement("script");
  Object.assign(script, { src: folder + "vega.js", onload: done, onerror: failed });
  document.head.append(script);
}));

for (const button of document.querySelectorAll("button.closer")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const picture = button.closest("figure").querySelector("img");
    let chart = button.closest("figure").querySelector(".chart");
    if (!chart) {
      chart = document.createElement("div");
      chart.className = "chart";
      picture.after(chart);
      try {
        await loaded();
        await vegaEmbed(chart, JSON.parse(button.dataset.chart), { actions: false, renderer: "svg" });
      } catch (error) {
        chart.remove();
        button.textContent = "This browser cannot draw the chart.";
        throw error;
      }
      chart.hidden = true;
    }
    chart.hidden = !chart.hidden;
    picture.classList.toggle("closer-shown", !chart.hidden);
    button.textContent = chart.hidden ? "Look closer" : "Back to the picture";
  });
}
