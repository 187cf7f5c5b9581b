// Lepton Kit in JupyterLab: three tiles of the launcher, which are commands too; each opens pages of the server under
// /lepton in a tab. Written as it is loaded: what `_JUPYTERLAB` needs of a module-federation container is `init` and
// `get`, and JupyterLab's own modules come through the share scope that `init` is given.
(() => {
  "use strict";
  const CATEGORY = "Lepton Kit";
  const PAGES = [
    { id: "lepton:new", label: "New runbook", path: "new", caption: "Run a notebook or runbook with other values",
      shape: "M4 2h11l5 5v15H4zM12 9v4H8v2h4v4h2v-4h4v-2h-4V9z" },
    { id: "lepton:incidents", label: "Incidents", path: "incidents", caption: "What went wrong, and what was done",
      shape: "M12 2 1 21h22zM11 9h2v6h-2zM11 17h2v2h-2z" },
    { id: "lepton:runs", label: "Runs", path: "runs", caption: "Runs, their pages, manifests and comparison",
      shape: "M3 4h4v4H3zM9 5h12v2H9zM3 10h4v4H3zM9 11h12v2H9zM3 16h4v4H3zM9 17h12v2H9z" },
  ];
  let shared;

  async function module(name) {
    const versions = Object.values((shared && shared[name]) || {});
    if (!versions.length) throw new Error(`Lepton Kit: this JupyterLab does not share ${name}`);
    const chosen = versions.find((one) => one.loaded) || versions[0];
    return (await chosen.get())();
  }

  async function makePlugin() {
    const names = ["apputils", "coreutils", "launcher", "ui-components"];
    const found = await Promise.all(names.map((name) => module(`@jupyterlab/${name}`)));
    const [{ ICommandPalette, IFrame, MainAreaWidget }, { PageConfig, URLExt }, { ILauncher }, { LabIcon }] = found;

    function open(app, page) {
      const content = new IFrame({
        sandbox: ["allow-same-origin", "allow-scripts", "allow-forms", "allow-downloads", "allow-popups",
          "allow-popups-to-escape-sandbox"],
      });
      content.url = URLExt.join(PageConfig.getBaseUrl(), "lepton", page.path);
      content.title.label = page.label;
      content.title.icon = page.icon;
      content.node.querySelector("iframe").title = `Lepton Kit: ${page.label}`;
      const widget = new MainAreaWidget({ content });
      widget.id = `${page.id}-${Date.now()}`;
      widget.title.closable = true;
      app.shell.add(widget, "main");
      app.shell.activateById(widget.id);
      return widget;
    }

    function activate(app, launcher, palette) {
      PAGES.forEach((page, rank) => {
        const svgstr = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><path class="jp-icon3" fill="#616161" fill-rule="evenodd" d="${page.shape}"/></svg>`;
        page.icon = new LabIcon({ name: page.id, svgstr });
        app.commands.addCommand(page.id, {
          label: page.label, caption: page.caption, icon: page.icon, execute: () => open(app, page),
        });
        if (launcher) launcher.add({ command: page.id, category: CATEGORY, rank });
        if (palette) palette.addItem({ command: page.id, category: CATEGORY });
      });
    }
    return { id: "lepton-kit:pages", autoStart: true, optional: [ILauncher, ICommandPalette], activate };
  }

  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB["lepton-kit"] = {
    init: (scope) => { shared = scope; },
    get: async (name) => {
      if (name !== "./extension") throw new Error(`Lepton Kit: has no module ${name}`);
      const plugin = await makePlugin();
      return () => ({ __esModule: true, default: plugin });
    },
  };
})();
