// Makes the tables of classes sort and filter; it is given DataTables. Without it they are plain tables.
// A cell such as "3 ~", "airplane (2)" or "-" is sorted by the number it begins with, if all of its column do.
DataTable.type("leading number", {
  detect: cell => /^(-$|[-+]?\d)/.test(cell),
  order: { pre: cell => { const number = parseFloat(cell); return isNaN(number) ? -Infinity : number; } },
});
for (const table of document.querySelectorAll(".lookup table")) {
  const heads = [...table.querySelectorAll("thead th")].map(head => head.textContent);
  const group = heads.indexOf("group");
  const choice = document.createElement("select");
  const label = document.createElement("label");
  label.append("group ", choice);
  choice.add(new Option("all", ""));
  for (const name of new Set([...table.tBodies[0].rows].map(row => row.cells[group].textContent)))
    choice.add(new Option(name));
  const shown = new DataTable(table, {
    paging: false, // what is printed is all that is chosen
    autoWidth: false,
    order: [], // as they come, from most to fewest training images
    columnDefs: [{ targets: heads.indexOf("examples"), orderable: false, searchable: false }]
      .filter(column => column.targets >= 0),
    layout: { topStart: () => label, topEnd: "search", bottomStart: "info", bottomEnd: null },
    language: { search: "text", info: "_TOTAL_ of _MAX_ classes", infoEmpty: "0 of _MAX_ classes", infoFiltered: "",
      zeroRecords: "no such class" },
  });
  choice.addEventListener("change", () => {
    shown.column(group).search(choice.value && `^${choice.value}$`, true, false).draw();
  });
}
